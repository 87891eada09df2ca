"""Vision experts: what each finds in an image, with where, what and how sure. `finding` holds their one interface."""
