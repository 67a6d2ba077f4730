"""Who may say what, what trials must satisfy before they are kept, and where those go that do not."""
