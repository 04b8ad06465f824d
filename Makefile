.PHONY: generate
generate:  ## write generated/ from proto/
	.venv/bin/python tools/generate.py
