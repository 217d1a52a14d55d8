"""The data plane's configuration: what Envoy is started with, and the files that it watches.

`bootstrap` is static (listener, filters, breaker, the gateway's own clusters); `routes` and `clusters` turn the route
table into the two documents that change; `watcher` follows the table, `publisher` brings it to Envoy; `transitions`
keeps what the breakers report. Everything that renders is a pure function from values to plain dicts.
"""
