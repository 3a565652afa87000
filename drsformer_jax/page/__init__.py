"""A local web page that derains photographs, and its API."""
