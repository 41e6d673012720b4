"""Airflow sensors of API in One."""
