"""Trainers of other libraries: a model that one of them trains is compressed, and what is reported comes from it.

Each integration is a package of its own, loaded when it is used; its library comes with the extra of the same name.
"""
