"""Follow what changes on the farm: by one connection each (`blocking`), or one for all consumers of a loop (`hub`)."""
