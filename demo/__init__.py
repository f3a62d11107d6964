"""The demo: a monolith nobody may touch, its editors, and a new side, on real servers without containers."""
