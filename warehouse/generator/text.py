"""Words: categories, flavours, names of products, rewards and people, and the grammar of tickets."""

from __future__ import annotations

CATEGORIES = ("coffee", "tea", "bakery", "breakfast", "sandwiches", "salads", "snacks", "desserts", "smoothies", "pantry")
GROUPS = (0, 0, 1, 2, 2, 3, 4, 1, 3, 4)  # categories of one group appeal to the same people
NOUNS: dict[str, tuple[str, ...]] = {
    "coffee": ("Flat White", "Latte", "Cappuccino", "Americano", "Cold Brew", "Espresso", "Mocha", "Cortado"),
    "tea": ("Chai Latte", "Earl Grey", "Green Tea", "Rooibos", "Iced Tea", "Oolong", "Peppermint Tea", "Jasmine Tea"),
    "bakery": ("Croissant", "Muffin", "Scone", "Cinnamon Roll", "Baguette", "Sourdough Loaf", "Danish", "Brioche"),
    "breakfast": ("Porridge", "Granola Bowl", "Pancake Stack", "Bagel", "Omelette Wrap", "Waffle", "Yoghurt Pot", "Breakfast Muffin"),
    "sandwiches": ("Club Sandwich", "Panini", "Toastie", "Falafel Wrap", "BLT", "Tuna Melt", "Ciabatta", "Pastrami Roll"),
    "salads": ("Caesar Salad", "Quinoa Bowl", "Greek Salad", "Poke Bowl", "Lentil Salad", "Noodle Salad", "Garden Salad", "Kale Salad"),
    "snacks": ("Crisps Bag", "Trail Mix", "Popcorn", "Energy Bar", "Pretzel Bag", "Nut Mix", "Rice Cake", "Hummus Pot"),
    "desserts": ("Brownie", "Cheesecake", "Cookie", "Tiramisu", "Tart", "Ice Cream", "Eclair", "Macaron Box"),
    "smoothies": ("Smoothie", "Cold Pressed Juice", "Frappe", "Milkshake", "Lemonade", "Acai Shake", "Ginger Shot", "Kefir Drink"),
    "pantry": ("Ground Coffee Bag", "Whole Bean Bag", "Pasta Sauce", "Olive Oil", "Honey Jar", "Jam", "Tea Box", "Muesli Box"),
}
FLAVOURS = (
    "Vanilla",
    "Caramel",
    "Hazelnut",
    "Chocolate",
    "Berry",
    "Citrus",
    "Pumpkin Spice",
    "Vegan",
    "Gluten-Free",
    "Spicy",
    "Oat",
    "Matcha",
    "Iced",
    "Protein",
    "Organic",
    "Smoky",
)
FLAVOURS_OF: dict[str, tuple[str, ...]] = {
    "coffee": ("Vanilla", "Caramel", "Hazelnut", "Oat", "Iced", "Pumpkin Spice"),
    "tea": ("Vanilla", "Citrus", "Matcha", "Iced", "Organic", "Berry"),
    "bakery": ("Chocolate", "Hazelnut", "Vegan", "Gluten-Free", "Berry", "Pumpkin Spice"),
    "breakfast": ("Berry", "Protein", "Oat", "Vegan", "Organic", "Chocolate"),
    "sandwiches": ("Smoky", "Spicy", "Vegan", "Gluten-Free", "Organic", "Protein"),
    "salads": ("Vegan", "Protein", "Spicy", "Citrus", "Organic", "Smoky"),
    "snacks": ("Spicy", "Smoky", "Protein", "Chocolate", "Gluten-Free", "Organic"),
    "desserts": ("Chocolate", "Caramel", "Vanilla", "Berry", "Gluten-Free", "Matcha"),
    "smoothies": ("Berry", "Citrus", "Protein", "Matcha", "Iced", "Vegan"),
    "pantry": ("Organic", "Hazelnut", "Vegan", "Oat", "Spicy", "Citrus"),
}
FLAVOUR_WORDS = {
    "Vanilla": "smooth Madagascar vanilla",
    "Caramel": "buttery salted caramel",
    "Hazelnut": "roasted hazelnut",
    "Chocolate": "dark chocolate",
    "Berry": "ripe summer berries",
    "Citrus": "fresh lemon and orange",
    "Pumpkin Spice": "autumn pumpkin and cinnamon",
    "Vegan": "only plants",
    "Gluten-Free": "no gluten at all",
    "Spicy": "a chilli kick",
    "Oat": "creamy oat milk",
    "Matcha": "stone-ground matcha",
    "Iced": "plenty of ice",
    "Protein": "extra protein",
    "Organic": "organic ingredients",
    "Smoky": "a slow-smoked note",
}
SIZES: dict[str, tuple[str, ...]] = {
    "coffee": ("8oz", "12oz", "16oz"),
    "tea": ("8oz", "12oz", "16oz"),
    "bakery": ("Single", "Twin Pack", "Box of 6"),
    "breakfast": ("Small", "Regular", "Large"),
    "sandwiches": ("Half", "Regular", "Footlong"),
    "salads": ("Side", "Regular", "Family"),
    "snacks": ("30g", "60g", "150g"),
    "desserts": ("Slice", "Regular", "Sharing"),
    "smoothies": ("12oz", "16oz", "24oz"),
    "pantry": ("250g", "500g", "1kg"),
}
BASE_PRICE = {
    "coffee": 3.6,
    "tea": 3.2,
    "bakery": 3.1,
    "breakfast": 5.4,
    "sandwiches": 6.9,
    "salads": 8.2,
    "snacks": 2.6,
    "desserts": 4.3,
    "smoothies": 5.2,
    "pantry": 9.5,
}
BRANDS = ("House", "Harbor & Pine", "Morning Mill", "Copper Kettle", "Green Acre", "Little Oven", "North Field", "Sol y Mar")

REWARD_NAMES = {
    "discount": "{percent}% off {flavour} {noun}",
    "bogo": "Buy One Get One {flavour} {noun}",
    "free_item": "Free {flavour} {noun}",
    "points_bonus": "{times}x Points on {flavour} {noun}",
    "cashback": "{value} Cash Back on {flavour} {noun}",
    "experience": "{flavour} {noun} Masterclass",
    "upgrade": "{flavour} {noun} Size Upgrade",
    "informational": "Meet the {flavour} {noun}",
}
REWARD_SENTENCES = {
    "discount": "Save on your next {noun} made with {words} from our {category} counter{spend}.",
    "bogo": "Bring a friend: buy one {noun} with {words} and the second is on us{spend}.",
    "free_item": "A {noun} with {words}, on the house from our {category} range{spend}.",
    "points_bonus": "Earn extra points whenever you pick a {noun} with {words}{spend}.",
    "cashback": "Money back to your card after buying a {noun} with {words}{spend}.",
    "experience": "Join our team for an evening on {category}: make a {noun} with {words} yourself.",
    "upgrade": "Go one size larger on any {noun} with {words} at no charge{spend}.",
    "informational": "Discover how we make our {category}: the story of a {noun} with {words}.",
}

CITIES = (
    "Seattle, WA",
    "Portland, OR",
    "San Francisco, CA",
    "Los Angeles, CA",
    "Denver, CO",
    "Austin, TX",
    "Chicago, IL",
    "Minneapolis, MN",
    "New York, NY",
    "Boston, MA",
    "Atlanta, GA",
    "Miami, FL",
)
STORE_PARTS = ("Downtown", "Station", "Market Square")
AGE_GROUPS = ("18-24", "25-34", "35-44", "45-54", "55-64", "65+")
AGE_FROM = (18, 25, 35, 45, 55, 65)
AGE_SPAN = (7, 10, 10, 10, 10, 20)

FIRST_F = (
    "Maria",
    "Aisha",
    "Emma",
    "Sofía",
    "Mei",
    "Priya",
    "Fatima",
    "Grace",
    "Olivia",
    "Chloé",
    "Hannah",
    "Yuki",
    "Amara",
    "Elena",
    "Zoë",
    "Leila",
    "Ingrid",
    "Thandiwe",
    "Nadia",
    "Ji-woo",
    "Rosa",
    "Kateryna",
    "Ana",
    "Ruth",
)
FIRST_M = (
    "James",
    "Mohammed",
    "Liam",
    "Diego",
    "Wei",
    "Arjun",
    "Omar",
    "Samuel",
    "Noah",
    "Étienne",
    "Jonas",
    "Kenji",
    "Kwame",
    "Luca",
    "Mateo",
    "Yusuf",
    "Erik",
    "Sipho",
    "Ivan",
    "Min-jun",
    "Pablo",
    "Andriy",
    "João",
    "Daniel",
)
LAST = (
    "Smith",
    "García",
    "Khan",
    "Müller",
    "Chen",
    "Patel",
    "Okafor",
    "Johnson",
    "Rossi",
    "Kim",
    "Nguyen",
    "Silva",
    "Ivanova",
    "Cohen",
    "Haddad",
    "Dubois",
    "Tanaka",
    "Mensah",
    "Andersen",
    "Brown",
    "López",
    "Kowalski",
    "Singh",
    "O'Brien",
    "Yılmaz",
    "Martin",
    "Dlamini",
    "Novak",
    "Fernández",
    "Williams",
)

# Tickets: opener + (before + product + after) + place + closing. Issue types as in contracts.tables.ISSUE_TYPES.
TICKET_BODIES: dict[str, dict[str, tuple[tuple[str, str], ...]]] = {
    "product": {
        "NEGATIVE": (
            ("The ", " was cold and tasted stale"),
            ("My ", " was sold out again"),
            ("I found the ", " dry and overpriced"),
            ("There was something hard in my ", ""),
        ),
        "NEUTRAL": (("Could you tell me the ingredients of the ", ""), ("Is the ", " available all year")),
        "POSITIVE": (("The ", " was absolutely delicious"), ("I love the new ", "")),
    },
    "service": {
        "NEGATIVE": (
            ("I waited twenty minutes for a ", ""),
            ("The staff were rude when I asked about my ", ""),
            ("They got my ", " order wrong twice"),
        ),
        "NEUTRAL": (("Can I pre-order a ", ""), ("What are the opening hours if I want a ", "")),
        "POSITIVE": (("The barista who made my ", " was so friendly"), ("Quick and kind service with my ", "")),
    },
    "delivery": {
        "NEGATIVE": (
            ("My ", " arrived an hour late and spilled"),
            ("The courier never brought my ", ""),
            ("Half of my order was missing, only the ", " came"),
        ),
        "NEUTRAL": (("Do you deliver the ", " on Sundays"), ("Where can I follow the delivery of my ", "")),
        "POSITIVE": (("My ", " was delivered early and still warm"), ("Perfect packaging for the ", "")),
    },
    "app": {
        "NEGATIVE": (
            ("The app crashed while I ordered a ", ""),
            ("My reward for a ", " vanished from the app"),
            ("The app charged me but shows no ", ""),
        ),
        "NEUTRAL": (("How do I save ", " as a favourite in the app"), ("Where does the app list the ", "")),
        "POSITIVE": (("Ordering a ", " in the app is so easy now"), ("The app remembered my ", ", great")),
    },
    "billing": {
        "NEGATIVE": (("I was charged twice for one ", ""), ("My discount was not applied to the ", ""), ("Still no refund for the ", "")),
        "NEUTRAL": (("Please send me an invoice for the ", ""), ("How many points do I get for a ", "")),
        "POSITIVE": (("Thanks for the fast refund of my ", ""), ("The points for my ", " arrived at once")),
    },
    "other": {
        "NEGATIVE": (("The tables were dirty when I had my ", ""), ("It was far too loud to enjoy my ", "")),
        "NEUTRAL": (("I left my umbrella after having a ", ""), ("Do you host groups who would like a ", "")),
        "POSITIVE": (("Lovely place to sit with a ", ""), ("My children adore the ", "")),
    },
}
OPENERS = {
    "NEGATIVE": ("Hello, ", "Really disappointed. ", "Not again! ", ""),
    "NEUTRAL": ("Hi, ", "Good morning. ", "Quick question: ", ""),
    "POSITIVE": ("Hi team! ", "Just wanted to say: ", "", "Wow. "),
}
CLOSINGS = {
    "NEGATIVE": (" I expect a refund.", " Please sort this out.", " I may not come back.", " This is the second time."),
    "NEUTRAL": (" Thank you.", " Please let me know.", " Thanks in advance.", ""),
    "POSITIVE": (" See you soon!", " Keep it up!", " Thank you so much.", " Five stars."),
}
