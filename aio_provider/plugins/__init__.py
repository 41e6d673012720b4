"""Airflow plugins of API in One."""
