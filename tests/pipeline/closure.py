"""Which files a stage script imports: what keys of stored results are made of serves the structure's tests, too."""

from pipeline_lib.closure import imported_files as imported_files
