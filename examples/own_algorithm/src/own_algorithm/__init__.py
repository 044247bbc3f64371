"""An algorithm, a reader and a logger for tether, in a package of their own."""
