"""The bundled model: what it knows (`grammar`, `clips`), how that is judged, how it is trained, and its weights."""
