"""What a Mac in the farm runs: the Celery worker, its engine process, the job ledger, storage."""
