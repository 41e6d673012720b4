"""Many generations: recorded durably, paced to the key's limit, polled with as few requests as can be."""
