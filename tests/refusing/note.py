from tests.refusing._notes import note

entity = note("note", "compensate")
