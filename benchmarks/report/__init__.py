"""`make report`: the evidence as one page. `case.py` says what a case is, `cases.py` names all."""
