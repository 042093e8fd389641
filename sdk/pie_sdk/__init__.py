"""What inferlet authors import, as package data: the WIT world and one SDK per language."""
