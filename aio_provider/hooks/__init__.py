"""Airflow hooks of API in One."""
