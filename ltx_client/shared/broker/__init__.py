"""Connect to the broker: its URL, its clients, its certificates, and sentences for its errors."""
