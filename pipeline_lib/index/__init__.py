"""FAISS indexes of galleries, rankings, and the process that holds FAISS."""
