"""The app in this process, ONNX Runtime in place of Triton."""

from __future__ import annotations


async def test_known_customer_gets_a_full_answer(api) -> None:
    answer = await api.recommend("cust-0", numRecommendations=4)
    print(answer)
    assert answer["coverage"] == "full"
