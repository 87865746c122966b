"""The download of a verdict as DICOM on the page."""

import io
import json
from pathlib import Path
from zipfile import ZipFile

import pytest

from model.results.make import ResultMaker
from pipeline.intake import record_verdict
from pipeline.names import verdict_key
from pipeline.store.folder import FolderStore
from pipeline.worklist.sqlite import SqliteIndex
from tests.support.fakes import LIMIT
from tests.support.results import KEY, classified, maker, source, stored
from tests.support.webpage import MAX_UPLOAD, Page
from tests.web.test_access import USERS, basic
from web.access import Access
from web.app import create_page
from web.audit import Audit

ADDRESS, VIEW = "/dicom/x.dcm", "/xray/x.dcm"


@pytest.fixture
def dicom_page(tmp_path: Path) -> Page:
    """Serve one X-ray with its verdict to the user ada."""
    store, index = FolderStore(tmp_path / "data"), SqliteIndex(tmp_path / "index.sqlite")
    for key, data in stored(source(), classified()).objects.items():
        store.put(key, data, None)
    record_verdict(verdict_key(KEY), store, index)
    results, audit = ResultMaker(store, LIMIT, lambda _: None), Audit(tmp_path / "audit.jsonl", "secret")
    options = {"access": Access(users=USERS), "audit": audit, "results": results}
    return Page(create_page(store, index, MAX_UPLOAD, **options).test_client(), store, index)


def test_who_may_see_the_xray_gets_both_objects_in_a_zip(dicom_page: Page, tmp_path: Path) -> None:
    ada = basic("ada")
    assert 'href="/dicom/x.dcm"' in dicom_page.get(VIEW, headers=ada)
    dicom_page.get(ADDRESS, 401)
    dicom_page.get(ADDRESS, 401, headers=basic("ada", "wrong"))
    with dicom_page.client.get(ADDRESS, headers=ada) as answer:
        assert answer.headers["Content-Disposition"] == "attachment; filename=x.dcm.dicom.zip"
        assert answer.headers["Cache-Control"] == "no-cache, no-store"
        with ZipFile(io.BytesIO(answer.data)) as archive:
            names = archive.namelist()
            files = [archive.read(name) for name in names]
    made = maker(stored(source(), classified())).make(KEY)
    assert files == [one.data for one in made]
    assert names == [f"{one.kind}-{one.uid}.dcm" for one in made]
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    found = [(line["user"], line["action"], line["result"], line["count"]) for line in lines]
    assert ("ada", "export", "done", 1) in found
    assert [line for line in found if line[1] == "export"] == [("ada", "export", "done", 1)]
    assert "x.dcm" not in (tmp_path / "audit.jsonl").read_text()


def test_why_there_is_none_is_said(dicom_page: Page) -> None:
    ada = basic("ada")
    assert "No X-ray with this name" in dicom_page.get("/dicom/y.dcm", 404, headers=ada)
    info = dicom_page.store.head(KEY)
    assert info is not None
    dicom_page.store.put(KEY, source(PatientID="18"), info.etag)
    said = dicom_page.get(ADDRESS, 409, headers=ada)
    assert "the X-ray was replaced after its verdict" in said
    program = {**ada, "Accept": "application/json"}
    assert "replaced" in json.loads(dicom_page.get(ADDRESS, 409, headers=program))["error"]
    dicom_page.store.delete(KEY)
    assert "no longer in the inbox" in dicom_page.get(ADDRESS, 409, headers=ada)


def test_only_a_dicom_source_is_offered(dicom_page: Page) -> None:
    verdict, store = classified(), dicom_page.store
    other = verdict.source.model_copy(update={"media_type": "image/jpeg"})
    seen = store.head(verdict_key(KEY))
    assert seen is not None
    store.put(verdict_key(KEY), verdict.model_copy(update={"source": other}).to_json(), seen.etag)
    assert "/dicom/" not in dicom_page.get(VIEW, headers=basic("ada"))


def test_a_page_without_the_libraries_offers_none(dicom_page: Page) -> None:
    store, index = dicom_page.store, dicom_page.index
    page = Page(create_page(store, index, MAX_UPLOAD).test_client(), store, index)
    assert "/dicom/" not in page.get(VIEW)
    page.get(ADDRESS, 404)
    assert "/dicom/{name}" not in json.loads(page.get("/api/openapi.json"))["paths"]


def test_the_description_for_programs_knows_it(dicom_page: Page) -> None:
    described = json.loads(dicom_page.get("/api/openapi.json", headers=basic("ada")))
    assert "application/zip" in described["paths"]["/dicom/{name}"]["get"]["responses"]["200"]["content"]
