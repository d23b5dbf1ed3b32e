"""The gateway's HTTP side: guards, routes, the relay to a worker, metrics, and the server that runs them."""
