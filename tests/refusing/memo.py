from tests.refusing._notes import note

entity = note("memo", "forward")
