"""Apple's push service over our own HTTP/2 client."""
