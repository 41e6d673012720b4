"""Airflow triggers of API in One."""
