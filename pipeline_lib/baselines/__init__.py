"""The systems it is compared with, each behind the interface of our own."""
