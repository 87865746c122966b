"""The interfaces for hospital systems: DICOMweb receives X-rays, FHIR reports verdicts."""
