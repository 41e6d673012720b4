"""Operator links of API in One, for the Airflow UI."""
