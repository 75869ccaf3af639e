# EU residency: only providers that work in the European Union, and they see no names of people's accounts. Nothing of what is
# asked or answered is kept or used again.
package tollgate.admission

default allow := false

allow if input.request.region == "eu"

deny contains "the provider of this model does not work in the EU; choose a model that does" if {
	not input.request.region == "eu"
}

obligations := {
	"regions": ["eu"],
	"redact": [
		{"name": "email"},
		{"name": "phone"},
		{"name": "iban"},
		{"name": "card"},
	],
	"cache": {"ttl_seconds": 0},
	"retention_days": 0,
}
