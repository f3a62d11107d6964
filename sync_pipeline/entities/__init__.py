"""Entities: their files, the places that they own, and an entity opened on its stores."""
