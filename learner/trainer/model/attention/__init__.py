"""How the flat tokens of a pack attend to each other: one interface (`base`), a backend for each kind of device."""
