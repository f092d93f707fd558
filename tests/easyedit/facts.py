"""Facts SmolLM2 knows, to be edited: prompt, subject, new object, true object."""

FACTS = [
    ("The Eiffel Tower is located in the city of", "The Eiffel Tower", "Rome", "Paris"),
    ("The capital of Japan is", "Japan", "Berlin", "Tokyo"),
    ("The Louvre is located in the city of", "The Louvre", "Vienna", "Paris"),
    ("The capital of Egypt is", "Egypt", "Madrid", "Cairo"),
    ("The author of Hamlet is", "Hamlet", "Mozart", "Shakespeare"),
    ("The Colosseum is located in the city of", "The Colosseum", "London", "Rome"),
    ("The capital of Canada is", "Canada", "Paris", "Ottawa"),
    ("The Kremlin is located in the city of", "The Kremlin", "Tokyo", "Moscow"),
    ("The capital of Italy is", "Italy", "Athens", "Rome"),
    ("The capital of Germany is", "Germany", "Rome", "Berlin"),
]
