"""Project 17: production serving: continuous batching and paged attention."""
