"""The event API: publishing, topics, subscriptions and dead letters, over REST and gRPC."""
