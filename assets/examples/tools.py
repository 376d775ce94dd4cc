"""Let the model call a Python function, and go on with what it gave, until it answers."""

import ast, json, operator, sys

from api.client import SyncClient

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def calculator(expression):
    def value(node):
        if isinstance(node, ast.BinOp):
            return OPERATORS[type(node.op)](value(node.left), value(node.right))
        return ast.literal_eval(node)

    return value(ast.parse(expression, mode="eval").body)


parameters = {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]}
function = {"name": "calculator", "description": "Evaluates an arithmetic expression.", "parameters": parameters}
messages = [{"role": "user", "content": " ".join(sys.argv[1:]) or "how much is 4821 + 977"}]

with SyncClient.discover(name="tools") as client:
    answer = client.generate(messages=messages, tools=[{"type": "function", "function": function}])
    while calls := answer.finished()["tool_calls"]:
        for call in calls:
            try:
                result = calculator(**json.loads(call["arguments"]))
            except Exception as error:  # the model may try again
                result = f"error: {error}"
            print(f"{call['name']} {call['arguments']} -> {result}")
            following = answer.tool_result(call["id"], str(result))
        answer = following
    print(answer.finished()["text"])
