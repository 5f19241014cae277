"""Stateful fakes of the four upstream APIs, strict about requests and scripted in time.

Each is an aiohttp server, to be started inside a test (`async with ScenarioFake().serve() as fake:`) or by hand
(`python -m tests.upstream.fakes scenario --port 8801`).
"""
