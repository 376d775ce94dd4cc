"""Short code blocks: Python, bash, and the scripts that follow the stream."""

# ruff: noqa: E501  (a sentence or a pattern stands on one line)

from __future__ import annotations

import random

from corpus.dsl import expand, sloppy
from corpus.stories import PEOPLE

SCRIPT = '''import json
from websockets.sync.client import connect

headers = {"Authorization": "Bearer TOKEN"}
with connect("ws://127.0.0.1:7317/v1/live", additional_headers=headers) as ws:
    ws.send('{"id": 1, "type": "subscribe"}')
    for message in ws:
        event = json.loads(message)
        if event["type"] == "generation.delta":
            print(event["text"], end="", flush=True)'''
BROWSER = '''const ws = new WebSocket("ws://127.0.0.1:7317/v1/live?token=TOKEN");
ws.onopen = () => ws.send(JSON.stringify({id: 1, type: "subscribe"}));
ws.onmessage = (m) => {
  const event = JSON.parse(m.data);
  if (event.type === "generation.delta") console.log(event.text);
};'''
NAMES = ["total", "add", "value", "result", "items", "count"]

# (language, what it does in several wordings, code); $n, $m are small numbers, $P a first name
SNIPPETS: list[tuple[str, str, str]] = [
    ("python", "prints hello world|that says hello world|hello world|printing hello world", 'print("Hello, world!")'),
    ("python", "prints hello world|hello world|says hello", 'print("Hello, world!")'),
    ("python", "prints hello $P|that greets $P|says hello to $P", 'print("Hello, $P!")'),
    ("python", "prints the numbers from 1 to $n|counts from 1 to $n|a loop from 1 to $n|a for loop that prints 1 to $n|counting to $n", "for i in range(1, $n + 1):\n    print(i)"),
    ("python", "counts down from $n|a countdown from $n|counts backwards from $n|a countdown", "for i in range($n, 0, -1):\n    print(i)"),
    ("python", "a for loop|a simple loop|a loop example|shows a for loop|loops over numbers", "for i in range(5):\n    print(i)"),
    ("python", "a while loop|an example of a while loop|uses while", "i = 0\nwhile i < 5:\n    print(i)\n    i += 1"),
    ("python", "adds two numbers|the sum of two numbers|a function that adds two numbers|an add function|a function to add a and b", "def add(a, b):\n    return a + b"),
    ("python", "subtracts two numbers|a function that subtracts two numbers|a subtract function", "def subtract(a, b):\n    return a - b"),
    ("python", "multiplies two numbers|a function that multiplies two numbers|a multiply function", "def multiply(a, b):\n    return a * b"),
    ("python", "squares a number|a square function|the square of a number|a function that returns the square", "def square(x):\n    return x * x"),
    ("python", "doubles a number|a double function|a function that doubles its argument", "def double(x):\n    return 2 * x"),
    ("python", "checks if a number is even|an is_even function|tests for even numbers|tells whether a number is even", "def is_even(n):\n    return n % 2 == 0"),
    ("python", "checks if a number is odd|an is_odd function|tells whether a number is odd", "def is_odd(n):\n    return n % 2 == 1"),
    ("python", "reverses a string|a function that reverses a string|turns a text around|reverse a word", "def reverse(text):\n    return text[::-1]"),
    ("python", "sums a list|adds up a list|the sum of a list|sums the numbers in a list", "numbers = [1, 2, 3]\nprint(sum(numbers))"),
    ("python", "sorts a list|sort a list of numbers|sorting numbers|a sorted list", "numbers = [3, 1, 2]\nprint(sorted(numbers))"),
    ("python", "finds the largest number|the maximum of a list|finds the biggest number in a list|the max of a list", "numbers = [3, 9, 4]\nprint(max(numbers))"),
    ("python", "finds the smallest number|the minimum of a list|the min of a list", "numbers = [3, 9, 4]\nprint(min(numbers))"),
    ("python", "the length of a list|counts the items of a list|prints the length of a string", 'items = ["a", "b", "c"]\nprint(len(items))'),
    ("python", "the average of a list|computes the mean|calculates the average of numbers", "numbers = [2, 4, 6]\nprint(sum(numbers) / len(numbers))"),
    ("python", "computes a factorial|the factorial of n|a factorial function|a recursive factorial", "def factorial(n):\n    return 1 if n <= 1 else n * factorial(n - 1)"),
    ("python", "fibonacci numbers|prints the fibonacci numbers|the fibonacci sequence|a fibonacci function", "def fibonacci(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a"),
    ("python", "fizzbuzz|a fizz buzz program|plays fizzbuzz", 'for i in range(1, 16):\n    if i % 15 == 0:\n        print("FizzBuzz")\n    elif i % 3 == 0:\n        print("Fizz")\n    elif i % 5 == 0:\n        print("Buzz")\n    else:\n        print(i)'),
    ("python", "reads a file|opens a text file|prints a file|reads a text file", 'with open("file.txt", encoding="utf-8") as f:\n    print(f.read())'),
    ("python", "writes a file|writes text to a file|saves text in a file|creates a text file", 'with open("file.txt", "w", encoding="utf-8") as f:\n    f.write("Hello!")'),
    ("python", "asks for a name|reads the user's name|asks the user for input|greets the user by name|user input", 'name = input("Your name: ")\nprint("Hello,", name)'),
    ("python", "a random number|rolls a die|prints a random number|a dice roll", "import random\n\nprint(random.randint(1, 6))"),
    ("python", "prints the time|shows the current time|prints the date|today's date|the current date", "from datetime import datetime\n\nprint(datetime.now())"),
    ("python", "an if statement|an if else example|compares two numbers|shows if and else", 'x = 7\nif x > 5:\n    print("big")\nelse:\n    print("small")'),
    ("python", "a dictionary|an example of a dict|uses a dictionary|makes a dictionary", 'ages = {"Anna": 31, "Ben": 27}\nprint(ages["Anna"])'),
    ("python", "a list of names|loops over a list|prints every item of a list|iterates over a list", 'for name in ["Anna", "Ben", "Emma"]:\n    print(name)'),
    ("python", "a list comprehension|squares of numbers in a list|a list of squares", "squares = [x * x for x in range(5)]\nprint(squares)"),
    ("python", "a class|an example of a class|a simple class|a dog class", 'class Dog:\n    def __init__(self, name):\n        self.name = name\n\n    def bark(self):\n        print(self.name, "says woof")'),
    ("python", "a function|an example function|a simple function|a greet function|a function that greets", 'def greet(name):\n    print("Hello,", name)\n\ngreet("Anna")'),
    ("python", "waits a second|sleeps|waits for some seconds|pauses the program", "import time\n\ntime.sleep(1)"),
    ("python", "parses json|reads json|loads a json string|how to parse json", "import json\n\ndata = json.loads('{\"a\": 1}')\nprint(data[\"a\"])"),
    ("python", "catches an error|a try except example|handles an exception|try and except", 'try:\n    print(1 / 0)\nexcept ZeroDivisionError:\n    print("Not possible")'),
    ("python", "swaps two variables|swap a and b|exchanges two values", "a, b = 1, 2\na, b = b, a\nprint(a, b)"),
    ("python", "makes a string upper case|uppercase text|prints text in capital letters", 'print("hello".upper())'),
    ("python", "counts words|counts the words of a text|the number of words in a text", 'text = "one two three"\nprint(len(text.split()))'),
    ("python", "counts letters|counts vowels|counts the vowels in a word", 'word = "tokenglass"\nprint(sum(c in "aeiou" for c in word))'),
    ("python", "the numbers $n times|prints a word $n times|prints hello $n times|repeats a text $n times", 'for _ in range($n):\n    print("Hello")'),
    ("python", "prints even numbers|the even numbers up to 10|all even numbers to 10", "for i in range(2, 11, 2):\n    print(i)"),
    ("python", "checks for a palindrome|a palindrome function|tests whether a word is a palindrome", "def is_palindrome(text):\n    return text == text[::-1]"),
    ("python", "converts celsius to fahrenheit|a temperature converter|celsius to fahrenheit", "def to_fahrenheit(celsius):\n    return celsius * 9 / 5 + 32"),
    ("python", "prints the multiplication table of $n|times table of $n|the $n times table", "for i in range(1, 11):\n    print(i * $n)"),
    ("python", "finds prime numbers|checks if a number is prime|an is_prime function|tests for primes", "def is_prime(n):\n    return n > 1 and all(n % d for d in range(2, n))"),
    ("python", "returns the larger of two numbers|a max function of two numbers|the bigger of two numbers", "def larger(a, b):\n    return a if a > b else b"),
    ("bash", "prints hello world|hello world|says hello", 'echo "Hello, world!"'),
    ("bash", "lists files|lists all files|shows the files of a folder|list the files here", "ls -l"),
    ("bash", "a loop|a for loop|counts to five|counts from 1 to 5", "for i in 1 2 3 4 5; do\n  echo $i\ndone"),
    ("bash", "makes a folder|creates a directory|a new folder", "mkdir folder"),
    ("bash", "counts lines of a file|the number of lines of a file", "wc -l file.txt"),
    ("bash", "finds text in files|searches for a word in files|searches files", 'grep -r "word" .'),
    ("bash", "shows the current folder|prints the working directory|where am i", "pwd"),
    ("bash", "starts tokenglass without a window|runs the tokenglass server|starts tokenglass serve", "tokenglass serve --port 7317"),
    ("bash", "adds a model to tokenglass|adds a gguf file|loads a model at the start", "tokenglass models add FILE\ntokenglass --model FILE"),
    ("bash", "deletes a file|removes a file", "rm file.txt"),
    ("bash", "copies a file", "cp file.txt copy.txt"),
    ("javascript", "prints hello world|hello world|says hello", 'console.log("Hello, world!");'),
    ("javascript", "a for loop|counts to five|a loop", "for (let i = 1; i <= 5; i++) {\n  console.log(i);\n}"),
    ("javascript", "adds two numbers|an add function", "function add(a, b) {\n  return a + b;\n}"),
]
LANG_WORDS = {"python": "[python|python|python 3|py]", "bash": "[bash|shell|the terminal|bash]", "javascript": "[javascript|js]"}
ASK = [
    "[write|give me|show me|make|create|can you write|could you write|please write|i need] [a|a small|a short|a tiny|a simple|some|the] $L [script|program|code|snippet|example|code block] [that|which|for|to|with|:] $D", "$D in $L", "how do i write $D in $L", "[write|show|give me|code] $D in $L", "$L: $D", "$L code [for|that] $D", "[write|show me|give me] $L code [for|that|to] $D",
    "[need|i need|i want] $L [code|script] [that|for] $D", "$L [script|snippet|example|program] [that|for] $D", "how to do this in $L: $D", "$L example [for|of] $D", "write $L code: $D", "code for $D [in|with] $L",
]
ASK_FN = ["[write|give me|make|show me|create] a $L function [that|which] $D", "a $L function that $D [please|]", "$L function [that|which|:] $D", "can you write a function in $L that $D?"]
SCRIPT_ASK = [
    "[write|show me|give me|i need|make|what is] [a|the|an example|the ready-made|a python|the python|the ten-line|a ten line|the websocket|a websocket] [python|websocket|] [script|code|example|client|program] [that follows the stream|that follows the tokens|for the stream|to follow the live stream|for tokenglass|that prints the tokens|to connect to tokenglass|that reads the tokens|for the websocket|that connects to the websocket]",
    "[ten line script|ten-line script|websocket script|example script|the ready made script|python websocket example|the ten line websocket script] [please|]", "how do i follow the tokens in python", "python code [to connect to|for] [the websocket|tokenglass|the live stream]", "show me [how to|code to] connect [to the stream|with python|to the websocket|to ws://127.0.0.1:7317/v1/live] in python",
]
BROWSER_ASK = ["[browser|javascript|js] [code|snippet|example|script] [to follow|for] the [stream|tokens|websocket]", "[show me|write|give me] [a|the] [browser|javascript] snippet [that follows|for] the stream", "how do i [follow|read] the stream in [javascript|a browser]"]


def turns(rng: random.Random) -> list[tuple[str, str]]:
    """One question for a code block, and its answer."""
    roll = rng.random()
    if roll < 0.06:
        return [(sloppy(expand(rng.choice(SCRIPT_ASK), rng), rng), f"```python\n{SCRIPT}\n```")]
    if roll < 0.08:
        return [(sloppy(expand(rng.choice(BROWSER_ASK), rng), rng), f"```javascript\n{BROWSER}\n```")]
    lang, what, code = rng.choice(SNIPPETS)
    n, person = rng.randint(3, 12), rng.choice(PEOPLE)
    asked = rng.choice(what.split("|"))
    is_fn = code.startswith("def ") and asked.split()[0].endswith("s") and rng.random() < 0.6
    text = expand(rng.choice(ASK_FN if is_fn else ASK).replace("$L", LANG_WORDS[lang]), rng).replace("$D", asked)
    for mark, value in (("$n", str(n)), ("$P", person)):
        text, code = text.replace(mark, value), code.replace(mark, value)
    return [(sloppy(text, rng, dress=rng.random() < 0.2), f"```{lang}\n{code}\n```")]
