"""The plots of the stories: what happens, to be told with any hero, friend and elder.

A plot is written in a small notation that `text.py` expands:

``[a|b|c]``
    one of the alternatives, which may be empty and may be nested;
``{name}``
    a word of the cast (``hero``, ``he``, ``friend``, ``elder``, ...; see ``text.cast``) or of the
    plot's own props. ``{X}`` is the hero at first mention, ``{friend2}`` a known friend at first
    mention, ``{stranger}`` the friend where the two have not met before.

Line ends count as spaces. The first words go on after "One day, ". All of the text is our own.

The words are few on purpose: a vocabulary of 512 tokens and a context of 256 must hold a story.
"""

from dataclasses import dataclass

#: Places that take "in the" and "to the".
PLACES = ("park", "garden", "forest", "field")
COLOURS = ("red", "blue", "green", "yellow", "white", "brown")
SPOTS = ("under a bush", "behind a stone", "in the grass", "near the pond", "behind a tree")
#: Beginnings of a plot's first sentence, all equally likely but for their repetition.
TIMES = ("One day, ", "One day, ", "One day, ", "One day ", "One day ", "One morning, ")


@dataclass(frozen=True)
class Plot:
    """One thing that can happen."""

    #: Text in the notation of this module.
    scenes: str
    #: Names (split by spaces) -> options. Plain words are drawn without repetition, one for each
    #: name; a tuple gives all the names their values together.
    props: dict[str, tuple[str, ...] | tuple[tuple[str, ...], ...]]
    #: The elder lives in the hero's home.
    family: bool = False
    times: tuple[str, ...] = TIMES


LOST = Plot(
    """
    {X} took {his} {colour} {toy} to the {place}. {He} put it down to [look at a bird|pick some
    flowers|rest in the sun]. When {he} came back, the {toy} was gone! {hero} [was very sad|began to
    cry]. "Where is my {toy}?" {he} asked. Then {he} [met|saw] {friend2}. "Do not cry," said
    {friend}. "[I will help you|We can look for it together]." They looked {wrong}, but it was not
    there. At last {friend} saw something {colour} {spot}. "Is this your {toy}?" {fhe} asked. "Yes!"
    cried {hero}. "Thank you, {friend}!" They played with the {toy} until [the sun went down|it was
    dark]. [{hero} learned that it is good to ask for help.|{hero} was happy to have such a good
    friend.]
    """,
    {
        "toy": ("ball", "kite", "hat", "drum", "bell", "book", "boat"),
        "colour": COLOURS,
        "place": PLACES,
        "wrong spot": SPOTS,
    },
)

STUCK = Plot(
    """
    {X} was playing with {his} {colour} {toy}. Suddenly a strong wind came, and the {toy}
    [flew|went] up, up, up. It was stuck {high}! {hero} jumped as high as {he} could, but {he} was
    too small. "Oh no, my {toy}!" {he} cried. {Friend2} came by and looked up. {fHe} ran home and
    came back with a {tool}. {hero} held the {tool}, and {friend} helped {him}. It was not easy, but
    they did not give up. At last the {toy} came down. "We did it!" they [cried|laughed]. Then
    {hero} let {friend} play with the {toy} too. They learned that [two heads are better than
    one|working together makes hard things easy].
    """,
    {
        "toy": ("kite", "hat", "ball", "paper bird"),
        "colour": COLOURS,
        "high": ("in a tall tree", "on the roof", "on a high wall"),
        "tool": ("long stick", "long rope", "big net"),
    },
)

AFRAID = Plot(
    """
    {elder2} asked {X} to {task}. But {hero} was afraid of {fear}. {He} [hid behind a chair|stood
    still and did not move]. "I cannot do it," {he} said. {Elder} sat down beside {him}. "Everyone
    is afraid sometimes," said {elder}. "{secret}." {hero} thought about it. Then {he} went out,
    step by step. {truth}. {hero} [smiled|laughed]. "It was not so bad," {he} said. {Elder} was very
    proud of {him}. {He} learned that [being brave means to try when you are afraid|things are not
    so bad when you look at them].
    """,
    {
        "fear task secret truth": (
            (
                "the dark",
                "bring some wood",
                "The dark is only the day with its eyes closed",
                "It was quiet, and the moon was shining on the wood",
            ),
            (
                "the big dog",
                "take some bread to the farm",
                "The dog barks because it wants a friend",
                "The big dog came to {him} and gave {him} its paw",
            ),
            (
                "the old bridge",
                "take some bread over the bridge",
                "The bridge is old because it is strong",
                "The bridge was strong, and the river sang under it",
            ),
        ),
    },
    family=True,
    times=("One day, ", "One day ", "One evening, "),
)

SHARE = Plot(
    """
    {elder2} gave {X} {food}. It looked so good! {hero} went to the {place} to eat it all alone.
    There {he} [saw|met] {stranger}, who was sitting on a [stone|log]. {friend} looked sad. "What is
    wrong?" asked {hero}. "I am so hungry," said {friend}, "and I have nothing to eat." {hero}
    wanted to keep {food3}. But then {he} looked at {friend} again. "Here," {he} said. "Half of it
    is for you." They ate {food3} together, and it was even better. The next day, {friend} came with
    a basket of {gift}. "Now I want to share with you," {fhe} said. {hero} learned that [sharing
    makes everything better|a kind act comes back].
    """,
    {
        "food food3": (
            ("a big cake", "the cake"),
            ("some warm bread", "the bread"),
            ("an apple pie", "the pie"),
            ("some honey", "the honey"),
        ),
        "place": PLACES,
        "gift": ("berries", "nuts", "apples"),
    },
)

RESCUE = Plot(
    """
    {X} was walking in the {place} when {he} heard a small sound. {He} looked {spot} and found a
    baby {pet}. It was [cold and alone|small and afraid]. "Do not be afraid," said {hero}. "I will
    help you." {He} put the baby {pet} in {his} {warm} and took it home. {Elder2} gave it some
    {meal}. "Its mother must be looking for it," said {elder}. So the next day {hero} took the baby
    {pet} back to the {place}. Soon a big {pet} came out of the trees. The baby {pet} was so happy!
    {hero} was a little sad, but {he} was glad too. "Goodbye, little {pet}," {he} said. [{He} knew
    that {he} had done the right thing.|"You have a kind heart," said {elder}.]
    """,
    {
        "pet meal": (("bird", "water"), ("owl", "water"), ("deer", "milk"), ("goat", "milk")),
        "warm": ("hat", "coat", "basket"),
        "place": PLACES,
        "spot": SPOTS,
    },
    family=True,
)

HONEST = Plot(
    """
    {X} was [running|playing|jumping] in the house. Crash! The {colour} {pot} of {elder2} fell down
    and broke. {hero} was afraid and hid the pieces under the bed. "Where is my {colour} {pot}?"
    asked {elder}. {hero} looked down and said nothing. But that night {he} could not sleep. At last
    {he} went to {elder} and told the truth. "I broke the {pot}," {he} said. "I am very sorry."
    {Elder} was quiet for a moment. "Thank you for the truth," said {elder}. "[We can mend the
    {pot}|A {pot} can be mended], but a lie grows and grows." Together they put the pieces back.
    {hero} learned that it is [best|better] to tell the truth.
    """,
    {"pot": ("cup", "bowl", "pot", "clock"), "colour": COLOURS},
    family=True,
)

SEED = Plot(
    """
    {X} found a small seed. "What is it?" {he} asked. "Put it in the ground and wait," said
    {elder2}. So {hero} put the seed in the ground {bed}. Every day {he} gave it water. The first
    week, nothing came. The second week, nothing came. {Friend2} laughed. "That is only a stone,"
    {fhe} said. But {hero} did not give up. {He} [sang to the seed|told the seed stories] every
    night. Then, one morning, there was a green leaf! It grew and grew, until it was {plant}. "I was
    wrong," said {friend}. "Can I help you give it water?" "[Of course|Yes]," said {hero}. They
    learned that [good things take time|it is good to wait].
    """,
    {
        "bed": ("in the garden", "near the gate", "behind the house"),
        "plant": ("a tall sunflower", "a big apple tree", "a bush full of roses"),
    },
)

LEARN = Plot(
    """
    {X} saw {friend2} {doing} [near the hill|by the river]. It looked like fun! "I want to {do}
    too," said {hero}. {hero} tried once, and {fail}. {He} tried again, and {fail}. "I will never
    learn it," {he} said. "Each time you try, you learn a little," said {friend}. So {hero} did not
    give up. {He} tried in the morning. {He} tried in the evening. And just before the sun went
    down, {win}! "Look at me!" {he} cried. "I can {do}!" {friend} [laughed|jumped for joy], and
    {elder2} was very proud. {hero} learned that [you must never give up|every try makes you
    better].
    """,
    {
        "do doing fail win": (
            (
                "ride a bike",
                "riding a bike",
                "{he} fell down",
                "{he} rode all the way down the road",
            ),
            ("swim", "swimming", "the water was too deep", "{he} swam across the water"),
            ("fly a kite", "flying a kite", "the kite fell down", "the kite went up, up, up"),
            ("whistle", "whistling", "no sound came out", "a clear sound came out"),
        ),
    },
)

RACE = Plot(
    """
    there was a big race in the {place}. {X} wanted to win the {prize}. {Stranger} wanted to win it
    too. "I am the fastest of all," said {friend}. "You will never win!" One, two, three, go! They
    ran [over the grass|past the trees|up the hill]. {friend} was far ahead. But then {fhe} fell
    into {trap}. "Help!" cried {friend}. Now {hero} could win! But {he} stopped and pulled {friend}
    out. "Why did you stop?" asked {friend}. "Because you needed help," said {hero}. So they ran
    side by side, and they both got the {prize}. {hero} knew that [a friend is better than a
    prize|it is better to help than to win].
    """,
    {
        "place": PLACES,
        "prize": ("big cake", "silver bell", "basket of apples"),
        "trap": ("a deep hole", "the cold river", "the mud"),
    },
)

RAIN = Plot(
    """
    {X} wanted to have a picnic with {friend2}. They put {food} and {food2} in a basket. But when
    they opened the door, it began to rain. Drip, drip, drip! "Now we cannot go out," said {friend}.
    But {hero} had an idea. "If we cannot go to the {place}," {he} said, "the {place} must come to
    us!" They put a green coat on the floor to be the grass. They made {deco} out of paper. Then
    they sat down and ate the {food} and the {food2}. {Elder2} came in and [laughed|smiled]. It was
    the best picnic of all. {hero} learned that [you can make your own sun|a good idea can save the
    day].
    """,
    {
        "food food2": ("bread", "apples", "cake", "nuts", "berries"),
        "place": PLACES,
        "deco": ("flowers", "birds", "trees"),
    },
    family=True,
)

BOAT = Plot(
    """
    {X} wanted to make a little boat. {He} made it out of {bad} and took it to the [river|pond]. But
    when {he} put it on the water, {sink}. "My boat is gone," said {hero}. {Elder2} was sitting
    there and saw it. "What did you learn?" asked {elder}. {hero} thought about it. "I need
    something [better|strong]," {he} said. So {he} looked around and found {good}. {He} made a new
    boat with a {colour} sail. {He} put it on the water. The wind blew into the {colour} sail, and
    the boat went far and fast! "[Your first boat helped you to make the second|You learned from
    your first boat]," said {elder}. {hero} learned that [mistakes can be good teachers|it is good
    to try again].
    """,
    {
        "bad sink": (
            ("paper", "it got wet and went down"),
            ("bread", "a duck came and ate it"),
            ("sand", "it broke into pieces"),
        ),
        "good": ("a piece of wood", "an old shoe", "a big nut"),
        "colour": COLOURS,
    },
)

NOISE = Plot(
    """
    {X} heard a strange sound. {Sound}! It came from the {room}. "Is it a monster?" {he} asked.
    {Sound}! There it was again. {hero} took a lamp and went to {elder2}. "There is a monster in the
    {room}," {he} said. "[Then we must say hello to it|Let us go and look]," said {elder}. They
    walked slowly to the {room}. They opened the door. It was only {cause}! {hero} laughed and
    laughed. "What a funny monster," {he} said. {fix}. Then {he} went back to bed. {hero} learned
    that things are not so bad when you look at them.
    """,
    {
        "room": ("kitchen", "garden"),
        "Sound cause fix": (
            ("Tap, tap, tap", "a tree at the window", "They closed the window"),
            ("Scratch, scratch", "a kitten in a box", "They gave the kitten some milk"),
            ("Drip, drip, drip", "water in a bowl", "They took the bowl away"),
            ("Crunch, crunch", "a hungry mouse with a nut", "They gave the mouse some bread"),
        ),
    },
    family=True,
    times=("One night, ", "One night, ", "One dark night, "),
)

WATER_CLOCK = Plot(
    """
    the old water clock stopped. It went drip, drip, drip from a big bowl into a small bowl, and so
    everyone knew the time. Now nobody knew when to [eat|sleep|get up]. {X} wanted to help. {He}
    asked {friend2}, and they went to the clock. "Maybe the {guess}," said {friend}. But that was
    not it. {friend} held the lamp, and {hero} looked into the bowl for a long time. "I see it!"
    {he} cried. "There is {block} in the hole!" {hero} pulled out {block3}. Drip, drip, drip! The
    water began to run, and the clock told the time again. "[Small hands can do big things|Every
    drop counts]," said {elder2}. After that, the water clock never stopped again.
    """,
    {
        "guess": ("water is gone", "bowl is broken", "clock is asleep"),
        "block block3": (
            ("a leaf", "the leaf"),
            ("a small stone", "the stone"),
            ("a nut", "the nut"),
        ),
    },
)

WAY_HOME = Plot(
    """
    {X} ran after a {colour} [bird|butterfly]. It flew far into the forest, and {hero} ran and ran.
    Then {he} looked around and did not know where {he} was. "I am lost," {he} said. It was dark,
    and the wind was cold. But then {he} remembered what {elder2} had told {him}: "When you are
    lost, stop and {advice}." So {hero} stopped. {He} {act}. At last {he} saw a light. It was the
    window of {his} home! {Elder} ran out and held {him}. "You remembered," said {elder}. {hero} was
    so glad to be home. [{He} learned to stay calm when things go wrong.|{He} never ran so far away
    again.]
    """,
    {
        "colour": COLOURS,
        "advice act": (
            ("look for the river", "found the river and went down with the water"),
            ("look for the big star", "found the big star and walked to it"),
            ("look for the bell", "heard the bell ring and went that way"),
        ),
    },
    family=True,
)

GIFT = Plot(
    """
    {X} wanted to give {elder2} a gift, but {he} had no money. {He} asked {friend2} what to do.
    "Make something," said {friend}. "A gift from the heart is the best gift." So they went to the
    {place} and picked some {stuff}. {hero} made {gift}, and {friend} helped {him}. But on the way
    home it began to rain, and {gift3} broke. "We can make it again," said {friend}. The new one was
    even better. {hero} gave {gift3} to {elder}. "Did you make it for me?" asked {elder}. "It is the
    best gift of all!" {hero} learned that [love is the best gift|it is good to try again].
    """,
    {
        "place": PLACES,
        "stuff gift gift3": (
            ("flowers", "a crown of flowers", "the crown"),
            ("grass", "a basket of grass", "the basket"),
            ("berries", "a necklace of berries", "the necklace"),
        ),
    },
)

DRAGON = Plot(
    """
    {X} heard someone cry. {spot2} {he} found a little {colour} dragon! "Why do you cry?" asked
    {hero}. "I cannot make fire," said the dragon. "I can only make {puff}." The next day,
    {trouble}, and nobody knew what to do. "I have an idea," said {hero}. The {colour} dragon took a
    deep breath and blew and blew, and {help}. Everyone laughed, and {elder2} gave the dragon a big
    cake. "You are not a bad dragon," said {hero}. "You are [only different|just right]." [Everyone
    is good at something.|From then on, they were best friends.]
    """,
    {
        "spot2": ("Under a bush", "Behind a stone", "In the grass", "Behind a tree"),
        "colour": COLOURS,
        "puff trouble help": (
            ("snow", "it was far too hot", "soon it was nice and cold"),
            ("rain", "all the flowers were dry", "soon the flowers had water"),
            ("wind", "no boat could move", "soon all the boats moved again"),
        ),
    },
)

ROBOT = Plot(
    """
    {X} found an old robot {spot}. It was {dirt} and did not move. "Hello, robot," said {hero}, but
    the robot said nothing. {hero} ran to {friend2}, and together they took the robot home. {hero}
    looked inside. "A {part} is gone," {he} said. They looked all over the house. At last {friend}
    found a {part} in {box}. {hero} put the {part} in. Click, click! The robot opened its eyes.
    "Good morning," it said. "How can I thank you?" "[Be our friend|Come and play with us]," said
    {hero}. So the robot {talent}, and they all laughed. {hero} learned that old things can be [made
    new|good friends].
    """,
    {
        "spot": SPOTS,
        "dirt": ("full of mud", "very old", "wet and cold"),
        "part": ("wheel", "spring", "wire"),
        "box": ("an old clock", "a broken toy", "a box"),
        "talent": ("told them funny stories", "sang a funny song", "played ball with them"),
    },
)

MOON = Plot(
    """
    {X} looked into the pond and saw the moon in the water. "The moon fell down!" {he} cried. "I
    must help it." {He} ran to get {friend2}. They took a {tool} and tried to pull the moon out. But
    each time, the moon broke into pieces. "Now we broke it," said {friend}, and they were very sad.
    {Elder2} came by with a lamp. "Why are you so sad?" asked {elder}. "We broke the moon," said
    {hero}. {Elder} [smiled|laughed] and said, "Look up!" They looked up, and there was the moon!
    Soon the water was still. Now there were two moons again. "Good night, moon," said {hero}, "and
    good night, moon." {He} learned to look [twice|up].
    """,
    {"tool": ("net", "basket", "long stick", "long rope")},
    times=("One night, ", "One night, ", "One evening, "),
)

#: Every plot; each is told equally often.
PLOTS = (
    LOST,
    STUCK,
    AFRAID,
    SHARE,
    RESCUE,
    HONEST,
    SEED,
    LEARN,
    RACE,
    RAIN,
    BOAT,
    NOISE,
    WATER_CLOCK,
    WAY_HOME,
    GIFT,
    DRAGON,
    ROBOT,
    MOON,
)
