"""The job ledger, worker's side, and the other records that workers keep on the broker."""
