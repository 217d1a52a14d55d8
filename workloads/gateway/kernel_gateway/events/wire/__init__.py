"""Messages of the gRPC EventService, generated from proto/events.proto: do not edit."""
