"""The worker's side of the job ledger, and the other records that workers keep on the broker."""
