"""Airflow operators of API in One."""
