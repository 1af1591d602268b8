"""Messages and stubs of package ``esscher.v1``: generated from ``proto/esscher/v1``, not edited by hand."""
