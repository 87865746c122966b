"""Write a verdict as a structured report: DICOM's Measurement Report (TID 1500), as IHE's AI Results has it.

Only a label that the network stands by has a number: without one, the report holds none at all.
"""

from highdicom.sr import (
    AlgorithmIdentification,
    ContainerContentItem,
    ContentSequence,
    DeviceObserverIdentifyingAttributes,
    ImageContentItem,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    NumContentItem,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes as standard

from model.results.belonging import MAKER, Belonging
from model.results.objects import Names, concept, header, network_name, plain_text
from pipeline.dicom import codes
from pipeline.verdict import Finding, Verdict, doubt_of

COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.88.33"
_CONTAINS = RelationshipTypeValues.CONTAINS


def build_report(verdict: Verdict, belonging: Belonging, names: Names) -> Dataset:
    """Return the report of a verdict, in the study of its source."""
    made = header(verdict, belonging, names, "report", COMPREHENSIVE_SR)
    made.Modality = "SR"
    made.SeriesNumber = 9901
    made.SeriesDescription = "CXR Inbox: report, not for diagnosis"
    made.CompletionFlag, made.VerificationFlag, made.PreliminaryFlag = "COMPLETE", "UNVERIFIED", "PRELIMINARY"
    made.ReferencedPerformedProcedureStepSequence, made.PerformedProcedureCodeSequence = [], []
    made.CurrentRequestedProcedureEvidenceSequence = [_evidence(belonging)]
    made.CodingSchemeIdentificationSequence = [_scheme()]
    for element in _tree(verdict, belonging, names)[0]:
        made.add(element)
    return made


def _evidence(belonging: Belonging) -> Dataset:
    study, series, instance = Dataset(), Dataset(), Dataset()
    instance.ReferencedSOPClassUID = belonging["SOPClassUID"]
    instance.ReferencedSOPInstanceUID = belonging["SOPInstanceUID"]
    series.SeriesInstanceUID, series.ReferencedSOPSequence = belonging["SeriesInstanceUID"], [instance]
    study.StudyInstanceUID, study.ReferencedSeriesSequence = belonging["StudyInstanceUID"], [series]
    return study


def _scheme() -> Dataset:
    scheme = Dataset()
    scheme.CodingSchemeDesignator, scheme.CodingSchemeName = codes.SCHEME, codes.SCHEME_NAME
    scheme.CodingSchemeResponsibleOrganization = MAKER
    return scheme


def _tree(verdict: Verdict, belonging: Belonging, names: Names) -> MeasurementReport:
    context = ObservationContext(
        ObserverContext(
            standard.DCM.Device,
            DeviceObserverIdentifyingAttributes(
                names.device,
                name=MAKER,
                manufacturer_name=MAKER,
                model_name=network_name(verdict),
                serial_number=plain_text(verdict.model.sha256, 64) if verdict.model else None,
            ),
        )
    )
    procedure = concept(codes.CHEST_XRAY if verdict.finding else codes.IMAGING)
    tree = MeasurementReport(context, procedure, [_group(verdict, belonging, names)])
    tree[0].ContentSequence.insert(-1, _library(belonging))
    return tree


def _library(belonging: Belonging) -> ContainerContentItem:
    """Return the image library (TID 1600) with the one source."""
    library = ContainerContentItem(concept(codes.IMAGE_LIBRARY), relationship_type=_CONTAINS)
    group = ContainerContentItem(concept(codes.IMAGE_GROUP), relationship_type=_CONTAINS)
    source = belonging["SOPClassUID"], belonging["SOPInstanceUID"]
    image = ImageContentItem(concept(codes.SOURCE_IMAGE), *source, relationship_type=_CONTAINS)
    group.ContentSequence = ContentSequence([image])
    library.ContentSequence = ContentSequence([group])
    return library


def _group(verdict: Verdict, belonging: Belonging, names: Names) -> MeasurementsAndQualitativeEvaluations:
    finding = verdict.finding if verdict.status == "classified" else None
    is_called = finding is not None and doubt_of(verdict.warnings) is None
    group = MeasurementsAndQualitativeEvaluations(
        TrackingIdentifier(names.tracking, f"{MAKER} verdict"),
        finding_type=concept(codes.LABEL_CODES[finding.label]) if finding else None,
        algorithm_id=_algorithm(verdict),
        measurements=[_probability(finding)] if finding and is_called else [],
        qualitative_evaluations=[
            QualitativeEvaluation(concept(codes.STATUS), concept(codes.STATUS_CODES[verdict.status])),
            *(
                QualitativeEvaluation(concept(codes.REASON), concept(reason))
                for reason in codes.reasons_of(verdict)
            ),
            *(
                QualitativeEvaluation(concept(codes.WARNING), concept(codes.WARNING_CODES[word]))
                for word in verdict.warnings
            ),
        ],
        source_images=[SourceImageForMeasurementGroup(belonging["SOPClassUID"], belonging["SOPInstanceUID"])],
    )
    texts = [f"Not for diagnosis. {verdict.notice}", *([verdict.reason.message] if verdict.reason else [])]
    items = group[0].ContentSequence
    items.extend(
        TextContentItem(concept(codes.COMMENT), plain_text(text), relationship_type=_CONTAINS)
        for text in texts
    )
    return group


def _probability(finding: Finding) -> Measurement:
    """Return the probability with its assumptions, which are its properties and no measurements."""
    measured = Measurement(concept(codes.PROBABILITY), finding.probability, concept(codes.NO_UNITS))
    assumed = (
        (codes.PREVALENCE, finding.prevalence),
        (codes.NORMAL_BELOW, finding.thresholds.normal_below),
        (codes.PNEUMONIA_ABOVE, finding.thresholds.pneumonia_above),
    )
    relation = RelationshipTypeValues.HAS_PROPERTIES
    items = [
        NumContentItem(concept(name), value, concept(codes.NO_UNITS), relationship_type=relation)
        for name, value in assumed
    ]
    measured[0].ContentSequence = ContentSequence(items)
    return measured


def _algorithm(verdict: Verdict) -> AlgorithmIdentification:
    when = verdict.finished_at.isoformat(timespec="seconds")
    release = f"{MAKER} {verdict.release.version}, release {verdict.release.number}, judged at {when}"
    if verdict.model is None:
        return AlgorithmIdentification(MAKER, plain_text(verdict.release.version), [plain_text(release)])
    network = verdict.model
    parameters = [f"sha256 {network.sha256}", f"engine {network.engine}", release]
    name, version, *plain = (plain_text(text) for text in (network.name, network.version, *parameters))
    return AlgorithmIdentification(name, version, plain, manufacturer=MAKER)
