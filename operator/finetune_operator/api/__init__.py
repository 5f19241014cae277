"""The FineTune resource: spec, status, recipes, trainer contract, CRD. Imports pydantic and nothing of ours."""
