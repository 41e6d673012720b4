"""The HTTP API of API in One, and nothing else: requests, tasks, prices, errors and the two clients."""
