"""TaskFlow decorators of API in One."""
