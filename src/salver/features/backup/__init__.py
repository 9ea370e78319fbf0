"""Backups of a whole server: settings, models, registry and ledger, each content once, by its digest."""
