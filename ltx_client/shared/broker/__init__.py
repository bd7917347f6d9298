"""The connection to the broker: its URL taken apart, its clients, its certificates, and its errors in words."""
