"""Lists, tables and JSON of the size and content asked for."""

# ruff: noqa: E501, SIM905, ARG005  (a sentence or a pattern stands on one line)

from __future__ import annotations

import json
import random

from corpus.dsl import expand, sloppy
from corpus.stories import PEOPLE

LISTS = {
    "fruits|kinds of fruit|fruit": "apple banana pear orange grape cherry plum lemon mango peach",
    "vegetables|kinds of vegetables|veggies": "carrot potato onion tomato pea cabbage spinach leek pepper bean",
    "colors|colours": "red blue green yellow orange purple white black pink brown",
    "animals|wild animals": "fox bear wolf deer lion horse rabbit elephant owl mouse",
    "farm animals": "cow pig sheep hen horse goat duck goose donkey",
    "pets|house pets": "dog cat rabbit hamster parrot goldfish mouse turtle",
    "birds|kinds of birds": "owl robin eagle swan crow sparrow duck stork parrot",
    "sea animals|animals in the sea|fish": "whale dolphin shark crab seal octopus herring turtle",
    "insects|bugs": "bee ant fly beetle butterfly wasp moth cricket",
    "trees|kinds of trees": "oak pine birch maple willow beech fir elm",
    "flowers|kinds of flowers": "rose tulip daisy lily violet poppy sunflower iris",
    "drinks|beverages|things to drink": "water tea coffee milk juice lemonade cocoa soda",
    "breakfast foods|things for breakfast|breakfast ideas": "bread eggs cereal yogurt fruit toast pancakes cheese",
    "sports|kinds of sport": "football tennis swimming running cycling hockey rowing skiing",
    "hobbies|hobby ideas|things to do in free time": "reading painting gardening cooking hiking chess photography knitting",
    "musical instruments|instruments": "piano guitar violin flute drum trumpet harp cello",
    "tools|tools for the workshop": "hammer saw drill pliers wrench screwdriver file chisel",
    "clothes|pieces of clothing|things to wear": "shirt trousers coat hat scarf socks shoes gloves",
    "furniture|pieces of furniture": "table chair bed sofa shelf desk cupboard lamp",
    "rooms|rooms of a house": "kitchen bedroom bathroom hall cellar attic study",
    "jobs|professions|occupations": "baker teacher doctor farmer painter pilot nurse gardener",
    "vehicles|means of transport|things that drive": "car bus train bicycle truck ship plane tram",
    "shapes|geometric shapes": "circle square triangle rectangle star oval cube sphere",
    "school things|things in a school bag|school supplies": "pencil book ruler eraser notebook pen scissors glue",
    "kitchen things|things in a kitchen|kitchen tools": "pot pan knife spoon fork plate cup bowl",
    "programming languages|computer languages": "Python C Java Rust JavaScript Go Ruby Swift",
    "desserts|sweets|sweet things": "cake cookies pudding pie chocolate muffins waffles",
    "toys|toys for children": "ball doll kite puzzle blocks train teddy",
    "feelings|emotions": "joy anger fear sadness surprise hope pride love",
    "seasons": "spring summer autumn winter",
    "body parts|parts of the body": "head arm hand leg foot nose ear eye",
    "things to pack|things for a trip|camping things|things to take on holiday": "tent lamp map water rope blanket jacket knife",
    "names for a cat|cat names": "Mimi Felix Luna Tiger Minka Simba Pearl",
    "names for a dog|dog names|names for a pet": "Rex Bella Max Rocky Lucy Bruno Daisy",
    "names|first names|baby names": "Anna Ben Emma Felix Lena Max Nina Oscar",
    "shopping items|things to buy|groceries|items for a shopping list": "bread milk eggs butter cheese apples rice tea",
    "days of the week|weekdays|days": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "months|months of the year": "January February March April May June July August",
    "planets": "Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune",
    "numbers|small numbers": "1 2 3 4 5 6 7 8 9 10",
    "letters|letters of the alphabet": "a b c d e f g h i j",
    "round things": "ball coin wheel plate orange ring button",
    "things in an office|office things": "desk printer chair phone pen lamp folder",
    "garden plants|things in a garden|plants": "rose tomato bean lettuce mint basil tulip",
}
PHRASES = {
    "sampling settings|sampling parameters": "temperature;top-k;top-p;min-p;repeat penalty;seed",
    "plots in the window|live plots|plots of tokenglass": "tokens per second;inter-token latency;context and KV cache;CPU and memory",
    "tokenglass commands|commands of tokenglass": "`tokenglass`;`tokenglass serve`;`tokenglass chat`;`tokenglass watch`;`tokenglass models`;`tokenglass bench`;`tokenglass selftest`",
    "parts of the window|parts of the tokenglass window": "the conversations at the left;the chat in the middle;the plots at the right;the status line at the bottom;the model switcher at the top left",
    "ideas for a rainy day|things to do on a rainy day|things to do at home": "read a good book;bake a cake;play a board game;call a friend;draw a picture;tidy a drawer",
    "tips for better sleep|tips to sleep well|sleeping tips": "go to bed at the same time;put the phone away;drink no coffee in the evening;keep the room cool;read a quiet book",
    "good habits|healthy habits|tips for a healthy life|tips to stay healthy": "drink enough water;take a walk every day;sleep well;eat fresh fruit;rest your eyes",
    "ways to make the model faster|tips for more speed|tips to speed up the model": "use a smaller model;use a stronger quantization;put layers on the GPU;set the threads well;shorten the prompt",
    "steps to make tea|steps for making tea": "boil some water;put a tea bag into a cup;pour the water over it;wait three minutes;take the bag out",
    "steps to load a model|steps for loading a bigger model|steps to load a gguf": "click the model switcher at the top left;choose a GGUF file;wait until it is loaded;ask a question",
    "reasons to run a model locally|advantages of a local model|benefits of local models": "your data stays private;it works offline;it costs nothing per token;you can watch every token",
    "gift ideas|ideas for a present|presents": "a good book;a plant;a board game;a box of tea;a warm scarf",
    "study tips|tips for learning|learning tips": "make a small plan;take short breaks;explain it to a friend;test yourself;sleep enough",
    "metrics|numbers in the window|things tokenglass measures|performance metrics": "tokens per second;time to first token;inter-token latency;context use;CPU and memory",
    "finish reasons": "stop;length;context_full;tool_calls;cancelled;error",
    "tips for saving energy|ways to save energy": "switch off lights;use less hot water;ride a bicycle;dry clothes in the air;close the windows in winter",
    "polite phrases|polite words": "please;thank you;excuse me;you're welcome;good morning",
    "things that make people happy|small joys|things to be thankful for": "a walk in the sun;a talk with a friend;a good book;music;a warm cup of tea",
}
COUNT_WORDS = "zero one two three four five six seven eight nine ten".split()
ASK = [
    "[give|make|write|show|name|list] [me|] [a list of|a bullet list of|a bulleted list of|a short list of|a markdown list of|] $N $X [please|]", "[list|name|give me|tell me|show me|i need|can you list|can you name|please list|enumerate] $N $X", "$N $X [please|pls|as a list|as bullets|as bullet points|in a list]", "a list of $N $X [please|]",
    "[what are|which are|do you know] $N $X?", "[write|make|create] a [|bullet|short|markdown] list with $N $X", "i [need|want|would like] [a list of|] $N $X", "list $N $X as bullet points", "can you [give|write|make] me a list of $N $X?", "bullet list: $N $X", "write down $N $X", "think of $N $X", "suggest $N $X", "i am looking for $N $X", "come up with $N $X",
]
ASK_NUM = ["[make|write|give me|show me|create] a numbered list of $N $X", "list $N $X, numbered", "numbered list of $N $X [please|]", "$N $X as a numbered list", "number them: $N $X", "[give|write] me $N $X in a numbered list", "an ordered list of $N $X", "i want $N $X as 1, 2, 3", "list $N $X with numbers"]


def some_list(rng: random.Random) -> tuple[str, list[str]]:
    if rng.random() < 0.7:
        key = rng.choice(list(LISTS))
        items = LISTS[key].split()
    else:
        key = rng.choice(list(PHRASES))
        items = PHRASES[key].split(";")
    return rng.choice(key.split("|")), items


def render(items: list[str], numbered: bool) -> str:
    return "\n".join(f"{i}. {x}" if numbered else f"- {x}" for i, x in enumerate(items, 1))


ALL_ITEMS = sorted({x for v in LISTS.values() for x in v.split() if x.isalpha() and len(x) > 1})
ASK_OWN = ["[make|write|create] a [|bullet|markdown] list of [|these|]: $T", "[put|turn|write] this [in|into|as] a [|bullet|markdown] list: $T", "$T as a [|bullet|markdown] list", "list these: $T", "bullet points for $T", "shopping list: $T", "make a [shopping|to-do|packing] list with $T", "turn $T into a list"]


def own_list(rng: random.Random) -> list[tuple[str, str]]:
    """The user gives the items."""
    items = rng.sample(ALL_ITEMS, rng.choice([2, 3, 3, 4, 5]))
    said = join(items) if rng.random() < 0.6 else ", ".join(items)
    ask = rng.choice(ASK_OWN)
    if rng.random() < 0.25:
        ask = ask.replace("a [|bullet|markdown] list", "a numbered list")
    ask = expand(ask, rng)
    return [(sloppy(ask.replace("$T", said), rng, dress=False), render(items, "numbered" in ask))]


def list_turns(rng: random.Random) -> list[tuple[str, str]]:
    if rng.random() < 0.12:
        return own_list(rng)
    name, items = some_list(rng)
    n = min(rng.choices([2, 3, 4, 5, 6, 7], [1, 5, 4, 5, 1, 1])[0], len(items))
    keep = items if rng.random() < 0.7 else rng.sample(items, len(items))
    numbered = rng.random() < 0.3 or name.startswith("steps")
    if rng.random() < 0.12:
        word, n = rng.choice(["some", "a few", ""]), min(4, len(items))
    else:
        word = str(n) if rng.random() < 0.45 else COUNT_WORDS[n]
    ask = rng.choice(ASK_NUM if numbered and not name.startswith("steps") else ASK).replace("$N", word).replace("$X", name)
    out = [(sloppy(expand(ask, rng), rng, dress=rng.random() < 0.3), render(keep[:n], numbered))]
    roll = rng.random()
    if roll < 0.1 and len(keep) > n + 1:
        m = min(len(keep) - n, rng.choice([1, 2, 3]))
        out.append((sloppy(expand(f"[{m}|{COUNT_WORDS[m]}] more [please|]", rng), rng, dress=False), render(keep[n : n + m], numbered)))
    elif roll < 0.2:
        out.append((sloppy(expand("[now|please|] [as a numbered list|number them|numbered please|with numbers]" if not numbered else "[now|please|] [as bullets|as bullet points|as a bullet list|without numbers]", rng), rng, dress=False), render(keep[:n], not numbered)))
    elif roll < 0.3:
        out.append((sloppy(expand("[now|and|] [as json|as a json array|in json|put that in json]", rng), rng, dress=False), f"```json\n{json.dumps(keep[:n])}\n```"))
    return out


TABLES: dict[str, tuple[list[str], list[list[str]]]] = {
    "fruits and [their|] colours|fruits with [their|] color": (["Fruit", "Colour"], [["Apple", "red"], ["Banana", "yellow"], ["Plum", "purple"], ["Lime", "green"], ["Orange", "orange"]]),
    "animals and their sounds|animals and what they say|animals with their sounds": (["Animal", "Sound"], [["Cat", "meow"], ["Dog", "woof"], ["Cow", "moo"], ["Duck", "quack"], ["Sheep", "baa"]]),
    "animals and [their|] legs|animals and the number of legs|animals with number of legs": (["Animal", "Legs"], [["Dog", "4"], ["Bird", "2"], ["Ant", "6"], ["Spider", "8"], ["Snail", "0"]]),
    "animals and their food|animals and what they eat": (["Animal", "Food"], [["Cow", "grass"], ["Cat", "fish"], ["Rabbit", "carrots"], ["Bee", "nectar"], ["Squirrel", "nuts"]]),
    "people and [their|] ages|names and ages|persons and their age": (["Name", "Age"], [["Anna", "31"], ["Ben", "27"], ["Emma", "45"], ["Felix", "19"], ["Lena", "38"]]),
    "products and [their|] prices|items and prices|things and what they cost": (["Item", "Price"], [["Bread", "3.00"], ["Milk", "1.20"], ["Cheese", "4.50"], ["Tea", "2.80"], ["Apples", "2.10"]]),
    "numbers and their squares|squares of numbers|square numbers": (["Number", "Square"], [["1", "1"], ["2", "4"], ["3", "9"], ["4", "16"], ["5", "25"]]),
    "numbers and their doubles|numbers and twice the number": (["Number", "Double"], [["1", "2"], ["2", "4"], ["3", "6"], ["4", "8"], ["5", "10"]]),
    "days and tasks|weekdays and chores|days and chores|a week plan": (["Day", "Task"], [["Monday", "shopping"], ["Tuesday", "laundry"], ["Wednesday", "cleaning"], ["Thursday", "sports"], ["Friday", "cooking"]]),
    "tokenglass commands and what they do|commands of tokenglass|the tokenglass commands": (["Command", "Meaning"], [["`tokenglass`", "opens the window"], ["`tokenglass serve`", "runs without a window"], ["`tokenglass chat`", "chats in the terminal"], ["`tokenglass watch`", "follows everything"], ["`tokenglass bench`", "measures the cost"]]),
    "sampling settings and good values|sampling settings with values|settings and good values": (["Setting", "Good value"], [["temperature", "0.7"], ["top-k", "40"], ["top-p", "0.95"], ["min-p", "0.05"], ["repeat penalty", "1.1"]]),
    "metrics and their meaning|the numbers of tokenglass|metrics and what they mean": (["Metric", "Meaning"], [["TTFT", "time to first token"], ["ITL", "time between two tokens"], ["tok/s", "tokens per second"], ["KV use", "how full the KV cache is"]]),
    "quantizations and bits|quantizations and their size": (["Quantization", "Bits per weight"], [["Q4_K_M", "about 5"], ["Q5_K_M", "about 6"], ["Q8_0", "about 8"], ["F16", "16"]]),
    "drinks and temperature|drinks and whether they are hot or cold": (["Drink", "Served"], [["Tea", "hot"], ["Coffee", "hot"], ["Juice", "cold"], ["Lemonade", "cold"], ["Cocoa", "hot"]]),
    "vegetables and [their|] colours|vegetables with color": (["Vegetable", "Colour"], [["Carrot", "orange"], ["Tomato", "red"], ["Pea", "green"], ["Onion", "white"], ["Eggplant", "purple"]]),
    "seasons and [their|] weather|the seasons|seasons and the weather": (["Season", "Weather"], [["Spring", "mild"], ["Summer", "hot"], ["Autumn", "windy"], ["Winter", "cold"]]),
    "months and days|months and number of days|months with their days": (["Month", "Days"], [["January", "31"], ["February", "28"], ["March", "31"], ["April", "30"], ["May", "31"]]),
    "vehicles and wheels|vehicles and their number of wheels": (["Vehicle", "Wheels"], [["Car", "4"], ["Bicycle", "2"], ["Tricycle", "3"], ["Truck", "6"], ["Boat", "0"]]),
    "jobs and tools|jobs and their tools|professions and tools": (["Job", "Tool"], [["Baker", "oven"], ["Painter", "brush"], ["Gardener", "spade"], ["Tailor", "needle"], ["Carpenter", "saw"]]),
    "sports and [their|] players|sports and team size": (["Sport", "Players"], [["Football", "11"], ["Basketball", "5"], ["Volleyball", "6"], ["Tennis", "1"]]),
    "shapes and corners|shapes and sides|shapes and number of sides": (["Shape", "Sides"], [["Triangle", "3"], ["Square", "4"], ["Pentagon", "5"], ["Hexagon", "6"]]),
    "pets and names|pets and their names|animals and names": (["Pet", "Name"], [["Cat", "Luna"], ["Dog", "Rex"], ["Rabbit", "Hops"], ["Parrot", "Coco"], ["Hamster", "Nibble"]]),
    "meals and times|meals of the day|meals and when to eat": (["Meal", "Time"], [["Breakfast", "7:30"], ["Lunch", "12:30"], ["Tea", "16:00"], ["Dinner", "19:00"]]),
}
ASK_TABLE = [
    "[make|write|give me|show me|create|draw|can you make|can you write|i need|please make|format|build] a [|markdown|small|short|little|simple] table of $N $X", "[make|write|create|give me|show] a [|markdown|small] table with $N $X", "$X as a [|markdown] table", "table of $N $X", "$N $X in a [|markdown] table [please|]",
    "put $N $X in a table", "a table [with|of] $N $X please", "i want a table of $N $X", "markdown table: $N $X", "show $N $X as a table", "tabulate $N $X",
]


ASK_COLS = ["[make|write|create|give me|show me|i need] a [|markdown|small] table with [the columns|columns] $K", "a [|markdown] table with [the columns|columns] $K [please|]", "[make|write|create] a [|markdown|small] table with $K [as columns|]", "table with columns $K", "[make|give me] a table of $K", "table: $K", "a table for $K please"]
ASK_ROWS = [" and $N rows", ", $N rows", " with $N rows", " and $N example rows", "; $N rows"]
ASK_OWN_TABLE = ["[make|write|create] a table [of|from|with] [this|these]: $T", "put [this|these] in a table: $T", "$T as a [|markdown] table", "turn this into a [|markdown] table: $T", "table: $T"]
PLAIN_KEYS = ["name", "age", "city", "price", "color", "id", "country", "job", "year", "hobby", "pet", "size", "quantity", "title", "email", "date", "status", "score", "brand", "stock"]


def column_table(rng: random.Random) -> list[tuple[str, str]]:
    """The user names the columns, or gives the rows."""
    if rng.random() < 0.3:
        a, b = rng.choice([("Name", "Age"), ("Item", "Price"), ("Name", "Score"), ("Item", "Quantity")])
        pool = PEOPLE if a == "Name" else ALL_ITEMS
        rows = [[x, str(rng.randint(1, 99))] for x in rng.sample(pool, rng.choice([2, 3, 3, 4]))]
        said = ", ".join(f"{x} {y}" for x, y in rows)
        keys = [a, b]
        ask = expand(rng.choice(ASK_OWN_TABLE), rng).replace("$T", said)
    else:
        names = rng.sample(PLAIN_KEYS, rng.choice([2, 2, 2, 3]))
        n = rng.choice([2, 3, 3, 4])
        ask = expand(rng.choice(ASK_COLS), rng).replace("$K", join(names))
        if rng.random() < 0.6:
            ask += rng.choice(ASK_ROWS).replace("$N", rng.choice([str(n), COUNT_WORDS[n]]))
        else:
            n = 3
        rows = [[str(VALUES[k](rng)) for k in names] for _ in range(n)]
        keys = [k.capitalize() for k in names]
    lines = [f"| {' | '.join(keys)} |", "|" + " --- |" * len(keys)] + [f"| {' | '.join(r)} |" for r in rows]
    return [(sloppy(ask, rng, dress=False), "\n".join(lines))]


def table_turns(rng: random.Random) -> list[tuple[str, str]]:
    if rng.random() < 0.35:
        return column_table(rng)
    key = rng.choice(list(TABLES))
    head, rows = TABLES[key]
    n = min(rng.choices([2, 3, 4, 5], [1, 5, 3, 2])[0], len(rows))
    word = rng.choice([str(n), COUNT_WORDS[n]]) if rng.random() < 0.75 else ""
    n = n if word else min(4, len(rows))
    rows = rows if rng.random() < 0.7 or head[0] in ("Number", "Day", "Month") else rng.sample(rows, len(rows))
    name = expand(rng.choice(key.split("|")) if "[" not in key else f"[{key}]", rng)
    ask = rng.choice(ASK_TABLE).replace("$N", word).replace("$X", name)
    if rng.random() < 0.15:
        ask += f" with the columns {head[0].lower()} and {head[1].lower()}"
    lines = [f"| {' | '.join(head)} |", "| --- | --- |"] + [f"| {' | '.join(r)} |" for r in rows[:n]]
    return [(sloppy(expand(ask, rng), rng, dress=rng.random() < 0.2), "\n".join(lines))]


VALUES = {
    "name": lambda r: r.choice(PEOPLE), "age": lambda r: r.randint(18, 70), "city": lambda r: r.choice(["Paris", "Rome", "Oslo", "Berlin", "Lima"]),
    "title": lambda r: r.choice(["The Small Token", "Blue Sky", "A Long Day"]), "price": lambda r: r.choice([3, 5, 9.5, 12, 20]), "color": lambda r: r.choice(["red", "blue", "green"]),
    "email": lambda r: r.choice(["anna@example.com", "ben@example.com"]), "id": lambda r: r.randint(1, 99), "active": lambda r: True, "country": lambda r: r.choice(["Norway", "Peru", "Japan"]),
    "job": lambda r: r.choice(["baker", "teacher", "pilot"]), "author": lambda r: r.choice(PEOPLE), "year": lambda r: r.randint(1990, 2026), "hobby": lambda r: r.choice(["chess", "reading", "hiking"]),
    "pet": lambda r: r.choice(["cat", "dog"]), "size": lambda r: r.choice(["small", "large"]), "quantity": lambda r: r.randint(1, 20), "language": lambda r: "English", "temperature": lambda r: 0.7,
    "model": lambda r: "starter", "tags": lambda r: ["small", "fast"], "done": lambda r: False, "height": lambda r: r.randint(150, 195), "phone": lambda r: "555-0100", "type": lambda r: r.choice(["book", "toy"]),
    "weight": lambda r: r.randint(1, 90), "date": lambda r: "2026-03-14", "species": lambda r: r.choice(["cat", "dog", "owl"]), "street": lambda r: "Main Street", "seed": lambda r: 42, "stock": lambda r: r.randint(1, 50), "breed": lambda r: "poodle",
    "legs": lambda r: 4, "brand": lambda r: "Nova", "pages": lambda r: r.randint(80, 400), "genre": lambda r: "fantasy", "top_p": lambda r: 0.9, "score": lambda r: r.randint(1, 10), "port": lambda r: 7317, "host": lambda r: "127.0.0.1", "status": lambda r: "ok",
}
OBJECTS = {
    "person": ["name", "age", "city"], "user": ["id", "name", "email"], "book": ["title", "author", "year"], "product": ["name", "price", "color"], "cat": ["name", "age", "color"], "dog": ["name", "age", "breed"],
    "pet": ["name", "species", "age"], "car": ["brand", "color", "year"], "city": ["name", "country"], "server": ["host", "port", "status"], "task": ["title", "done"], "movie": ["title", "year", "genre"], "model": ["name", "size"], "customer": ["name", "email", "city"], "student": ["name", "age", "score"], "animal": ["species", "legs", "color"], "order": ["id", "price", "quantity"],
}
ASK_JSON = [
    "[give me|write|make|create|show me|return|generate|produce|i need|can you write|output] [a|a small|a valid|] json [object|] [with|with the keys|with the fields|containing|that has] $K", "json [object|] with $K [please|]", "a json object with [keys|fields|] $K", "[write|make] [me|] json with $K", "answer in json with $K", "json: $K", "make an object in json with the keys $K",
]
ASK_OBJ = ["[give me|write|make|create|show me|generate|i need] a json [object|example|] [for|of|describing|that describes] a $O", "describe a $O [as|in] json", "a $O [as|in] json [please|]", "json for a $O", "[show me|write] an example $O in json", "[give me|make] a $O in json format", "example json of a $O"]
ASK_GIVEN = ["[put|write|turn|convert] this [into|as|in] json: $T", "make json [from|of] this: $T", "$T [as json|in json|to json]", "[as json|json please]: $T", "convert to json: $T", "write a json object where $T", "[give me|make|write] a json object with $T", "json with $T", "[give me|write] json with $T", "a json object with $T please", "json object: $T"]
ASK_ARRAY = ["[give me|write|make|create|show|return] a json [array|list] [of|with] $N $X", "json [array|list] of $N $X", "$N $X as [json|a json array|a json list]", "put $N $X in a json [array|list]", "a json array with $N $X please"]


def join(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def json_turns(rng: random.Random) -> list[tuple[str, str]]:
    kind = rng.random()
    if kind < 0.4:
        keys = rng.sample(list(VALUES), rng.choices([1, 2, 3, 4], [1, 4, 4, 1])[0])
        text = rng.choice(ASK_JSON).replace("$K", join(keys))
        data: object = {k: VALUES[k](rng) for k in keys}
    elif kind < 0.55:
        obj = rng.choice(list(OBJECTS))
        keys = OBJECTS[obj]
        text = rng.choice(ASK_OBJ).replace("$O", obj)
        if rng.random() < 0.4:
            text += " with " + join(keys)
        data = {k: VALUES[k](rng) for k in keys}
    elif kind < 0.8:
        keys = rng.sample(list(VALUES), rng.choice([1, 2, 2, 3]))
        data = {k: VALUES[k](rng) for k in keys}
        named = rng.random() < 0.4
        said = join([f"{'the ' if named else ''}{k} {'' if named else rng.choice(['is ', '', '= ', ': '])}{json.dumps(v).strip(chr(34))}" for k, v in data.items() if not isinstance(v, list)] or ["status ok"])
        if "tags" in data:
            data.pop("tags")
        data = data or {"status": "ok"}
        text = rng.choice(ASK_GIVEN).replace("$T", said)
    else:
        name, items = some_list(rng)
        n = min(rng.choice([2, 3, 4, 5]), len(items))
        text = rng.choice(ASK_ARRAY).replace("$N", rng.choice([str(n), COUNT_WORDS[n]])).replace("$X", name)
        data = [int(x) if x.isdigit() else x for x in items[:n]]
    return [(sloppy(expand(text, rng), rng, dress=False), f"```json\n{json.dumps(data)}\n```")]
