"""Who logs in to the Airflow of these tests, beside its admin."""

#: sees only this DAG
ANALYST, ANALYSTS_DAG = "analyst", "enrich_catalog"
