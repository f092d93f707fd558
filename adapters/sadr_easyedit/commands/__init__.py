"""EasyEdit's commands of the ``sadr`` command line."""
