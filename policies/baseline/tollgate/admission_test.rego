package tollgate.admission_test

import data.tollgate.admission

request := {"surface": "chat", "choices": 1, "images": 0, "input_bytes": 100}

asked(change) := {"request": object.union(request, change)}

test_chat_is_allowed if {
	admission.allow with input as asked({})
	admission.deny == set() with input as asked({})
}

test_embeddings_are_allowed if admission.allow with input as asked({"surface": "embeddings"})

test_other_surfaces_are_not if not admission.allow with input as asked({"surface": "speech"})

test_nobody_asks_for_nothing if not admission.allow with input as {}

test_the_last_allowed_value_is_allowed if {
	admission.deny == set() with input as asked({"choices": 8, "images": 20, "input_bytes": 4000000})
}

test_many_answers_are_denied if {
	admission.deny == {"at most 8 answers at once"} with input as asked({"choices": 9})
}

test_many_images_are_denied if {
	admission.deny == {"at most 20 images in one request"} with input as asked({"images": 21})
}

test_long_texts_are_denied if {
	admission.deny == {"at most 4000000 bytes of text in one request"} with input as asked({"input_bytes": 4000001})
}

test_what_is_kept_is_kept_for_a_month if admission.obligations == {"retention_days": 30} with input as asked({})
